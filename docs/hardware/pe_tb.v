// Feeds one processing element the vectors of a folder that `bnrecal export` wrote, and compares every accumulator and
// every number of active threads. DIR is the folder:
//
//   iverilog -g2005 -I DIR -o pe_tb docs/hardware/pe.v docs/hardware/pe_tb.v && vvp pe_tb +dir=DIR
//
// Prints one line, which starts with PASS or FAIL.

`timescale 1ns / 1ps

module pe_tb;
    `include "parameters.vh"

    reg [8*THREADS-1:0] activations [0:OUTPUTS*STEPS-1];
    reg [8*THREADS-1:0] weights     [0:OUTPUTS*STEPS-1];
    reg [3:0]           active      [0:OUTPUTS*STEPS-1];
    reg signed [31:0]   sums        [0:OUTPUTS-1];

    reg                 clock = 0;
    reg                 clear;
    reg [8*THREADS-1:0] a, b;
    wire signed [31:0]  sum;
    wire [2:0]          together;

    pe #(
        .THREADS(THREADS), .POLICY(POLICY), .SPARSITY(SPARSITY), .FLOOR(FLOOR), .SATURATE(SATURATE), .SIGNED(SIGNED)
    ) element (
        .clock(clock), .clear(clear), .activations(a), .weights(b), .sum(sum), .active(together)
    );

    reg [8*1024-1:0] dir;
    integer output_number, step, errors;

    task fail(input integer expected, input integer found);
        begin
            if (errors == 0)
                $display("FAIL: output %0d, step %0d: expected %0d, found %0d", output_number, step, expected, found);
            errors = errors + 1;
        end
    endtask

    initial begin
        if (!$value$plusargs("dir=%s", dir)) begin
            $display("FAIL: give the folder of the vectors as +dir=FOLDER");
            $finish;
        end
        $readmemh({dir, "/activations.hex"}, activations);
        $readmemh({dir, "/weights.hex"}, weights);
        $readmemh({dir, "/active.hex"}, active);
        $readmemh({dir, "/accumulators.hex"}, sums);
        errors = 0;
        for (output_number = 0; output_number < OUTPUTS; output_number = output_number + 1) begin
            for (step = 0; step < STEPS; step = step + 1) begin
                a = activations[output_number*STEPS + step];
                b = weights[output_number*STEPS + step];
                clear = step == 0;
                #1 clock = 1;
                #1 clock = 0;
                if (together !== active[output_number*STEPS + step])
                    fail(active[output_number*STEPS + step], together);
            end
            step = STEPS - 1;
            if (sum !== sums[output_number]) fail(sums[output_number], sum);
        end
        if (errors == 0) $display("PASS: %0d outputs of %0d steps, %0d threads", OUTPUTS, STEPS, THREADS);
        else $display("%0d errors", errors);
        $finish;
    end
endmodule
