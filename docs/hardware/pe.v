// One processing element of NB-SMT: THREADS operand pairs share one 8-bit multiplier; a step adds to `sum`.
// The parameters are those that `bnrecal export` writes into parameters.vh (docs/hardware.md).
//
// A thread is active when both its operands are non-zero. One active thread multiplies 8 bits by 8 bits. Two active
// threads reduce one operand each to 4 bits and a shift (POLICY says which), three or four reduce both.

`timescale 1ns / 1ps

module pe #(
    parameter THREADS  = 4,  // 1, 2 or 4
    parameter POLICY   = 0,  // two active threads: 0 = A, 1 = Aw, 2 = W, 3 = aW
    parameter SPARSITY = 1,  // 0: every thread always counts as active
    parameter FLOOR    = 0,  // 0: round half to even, 1: round down
    parameter SATURATE = 1,  // 1: a reduced operand fits 4 bits and a shift
    parameter SIGNED   = 0   // activations: 0 = 0..255, 1 = -128..127 (one thread alone)
) (
    input  wire                      clock,
    input  wire                      clear,        // start a new output with this step
    input  wire [8*THREADS-1:0]      activations,  // thread t in bits 8t+7..8t
    input  wire [8*THREADS-1:0]      weights,
    output reg  signed [31:0]        sum,
    output reg  [2:0]                active        // threads that were active in the last step
);
    // round(value / 16) * 16, half to even or down; arithmetic shifts, so negative values work alike
    function signed [9:0] to_multiple_of_16(input signed [9:0] value);
        reg signed [9:0] carried;
        begin
            carried = value + 10'sd7 + (value[4] ? 10'sd1 : 10'sd0);
            to_multiple_of_16 = FLOOR ? {value[9:4], 4'b0} : {carried[9:4], 4'b0};
        end
    endfunction

    function signed [9:0] reduced_activation(input signed [9:0] a);
        reg signed [9:0] r;
        begin
            r = to_multiple_of_16(a);
            if (SATURATE && r > 240) r = 240;
            reduced_activation = a <= 15 ? a : r;
        end
    endfunction

    function signed [9:0] reduced_weight(input signed [9:0] b);
        reg signed [9:0] r;
        begin
            r = to_multiple_of_16(b);
            if (SATURATE && r > 112) r = 112;
            reduced_weight = (b >= -8 && b <= 7) ? b : r;
        end
    endfunction

    // what a thread multiplies when `together` threads are active
    function signed [19:0] product(input signed [9:0] a, input signed [9:0] b, input [2:0] together);
        reg reduce_a, reduce_b;
        begin
            reduce_a = together >= 3 || (together == 2 && (POLICY == 0 || (POLICY == 1 && (b < -8 || b > 7))));
            reduce_b = together >= 3 || (together == 2 && (POLICY == 2 || (POLICY == 3 && a > 15)));
            product = (reduce_a ? reduced_activation(a) : a) * (reduce_b ? reduced_weight(b) : b);
        end
    endfunction

    // a byte as a signed 10-bit number
    function signed [9:0] widened(input [7:0] value, input negative);
        widened = {{2{negative && value[7]}}, value};
    endfunction

    reg signed [9:0]  a, b;
    reg [THREADS-1:0] runs;
    reg [2:0]         together;
    reg signed [31:0] step;
    integer t;

    always @* begin
        together = 0;
        for (t = 0; t < THREADS; t = t + 1) begin
            runs[t] = (activations[8*t +: 8] != 0 && weights[8*t +: 8] != 0) || !SPARSITY;
            together = together + {2'b0, runs[t]};
        end
        step = 0;
        for (t = 0; t < THREADS; t = t + 1) begin
            a = widened(activations[8*t +: 8], SIGNED);
            b = widened(weights[8*t +: 8], 1);
            if (runs[t]) step = step + product(a, b, together);
        end
    end

    always @(posedge clock) begin
        sum    <= clear ? step : sum + step;
        active <= together;
    end
endmodule
