#!/usr/bin/env bash
# Breaks one rule at a time in a copy of the tree and expects the schedules to tell which
# promise that breaks. One line each; code 1 when a mutant lives, dies of something else than
# its patch names, its patch no longer applies, or one of M1 to M11 is missing.
#   run.sh          all
#   run.sh M3 M8    these
set -eu
cd "$(dirname "$0")/../../../.."
root=$PWD
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
done 2>/dev/null | tar --null -T - -cf - | tar -xf - -C "$copy"
export CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_TARGET_DIR="$root/target/mutants" TAUGATE_COUNT_ALL=1
export TAUGATE_SCHEDULES="${TAUGATE_SCHEDULES:-20000}" RUST_BACKTRACE=0
alive=0
if [ $# = 0 ]; then
    for number in 1 2 3 4 5 6 7 8 9 10 11; do
        ls "$root/crates/ledger/tests/mutants/M${number}_"*.patch >/dev/null 2>&1 && continue
        echo "M$number: FAILED (there is no patch)"
        alive=1
    done
fi
for patch in "$root"/crates/ledger/tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -gt 0 ]; then
        case " $* " in *" ${name%%_*} "*) ;; *) continue ;; esac
    fi
    named=$(sed -n 's/^Killed by: //p' "$patch")
    if ! (cd "$copy" && patch -s -p1 <"$patch" >/dev/null); then
        echo "$name: the patch does not apply: FAILED"
        alive=1
        break
    fi
    code=0
    (cd "$copy" && cargo test --locked -q -p taugate-ledger --test schedules --no-run) \
        >"$copy/out" 2>&1 || code=2
    if [ "$code" = 0 ]; then
        (cd "$copy" && timeout 300 cargo test --locked -q -p taugate-ledger --test schedules \
            no_schedule_of_faults_breaks_a_promise) >"$copy/out" 2>&1 || code=1
    fi
    line=$(sed -n 's/^schedules: \([0-9]*\) tried.*; \([0-9]* broken (.*)\): BROKEN$/\2 of \1/p' "$copy/out")
    by=$(sed -n 's/^\([A-Za-z0-9]*\) is broken: .*/\1/p' "$copy/out" | head -n 1)
    case " $named " in
        *" ${by:-none} "*) echo "$name: killed by $by; $line" ;;
        *)
            echo "$name: FAILED (code $code, broken: ${by:-nothing}, expected: $named)"
            tail -n 5 "$copy/out" >&2
            alive=1
            ;;
    esac
    (cd "$copy" && patch -s -R -p1 <"$patch" >/dev/null)
done
exit "$alive"
