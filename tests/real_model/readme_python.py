"""The first call of README.md, as it stands there: `readme_python.py GATEWAY TOLD`.

GATEWAY stands in for 127.0.0.1:50051; the protos are on the path. TOLD gets the units that the
call cost as the client was told.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
gateway, told = sys.argv[1], sys.argv[2]
failures = 0

blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
for block in blocks:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(block.replace("127.0.0.1:50051", gateway))
    units = re.search(r"^  units: (\d+)$", said.getvalue(), re.M)
    holds = units is not None and "recorded: true" in said.getvalue()
    failures += not holds
    found = f"{units[1]} units" if units else said.getvalue()
    print(f"{'ok  ' if holds else 'FAIL'} the README's first call from Python: {found}", flush=True)
    if units:
        with open(told, "a", encoding="utf-8") as noted:
            noted.write(f"{units[1]}\n")
if len(blocks) != 1:
    print(f"FAIL README.md has one first call from Python: {len(blocks)}")
sys.exit(1 if failures or len(blocks) != 1 else 0)
