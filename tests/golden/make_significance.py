"""Writes significance.json: McNemar's exact p-values by statsmodels, for tables of who is right alone.

pip install statsmodels
python tests/golden/make_significance.py
"""

import json
from pathlib import Path

from statsmodels.stats.contingency_tables import mcnemar

TABLES = [(0, 0), (1, 0), (3, 0), (5, 5), (12, 3), (3, 12), (40, 22), (150, 100), (7, 31), (1000, 1100)]

if __name__ == "__main__":
    cases = [[a, b, float(mcnemar([[50, a], [b, 30]], exact=True).pvalue)] for a, b in TABLES]
    Path(__file__).with_suffix("").with_name("significance.json").write_text(json.dumps(cases, indent=1) + "\n")
