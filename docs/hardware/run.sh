#!/bin/sh
# Run the test bench on every folder of golden vectors of an export: docs/hardware/run.sh EXPORT
# Needs Icarus Verilog (Debian: apt-get install iverilog). Exits with 1 if a folder fails.
here=$(dirname "$0")
program=$(mktemp) || exit 1
trap 'rm -f "$program"' EXIT
status=1 # also without any folder
for vectors in "${1:?give the folder of an export}"/vectors/*/; do
    [ -e "$vectors/parameters.vh" ] || continue
    [ "$status" = failed ] || status=0
    case $(sed -n 's/^localparam POLICY = \(.*\);/\1/p' "$vectors/parameters.vh") in
        [0-3]) ;;
        *) echo "$(basename "$vectors"): not run: pe.v does not know this policy; add it where reduce_a and reduce_b are set"
           status=failed; continue ;;
    esac
    answer=$(iverilog -g2005 -I "$vectors" -o "$program" "$here/pe.v" "$here/pe_tb.v" \
        && vvp -n "$program" "+dir=${vectors%/}")
    echo "$(basename "$vectors"): $answer"
    case $answer in PASS*) ;; *) status=failed ;; esac
done
[ "$status" = 0 ]
