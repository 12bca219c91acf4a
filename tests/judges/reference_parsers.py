"""Reads expositions with prometheus_client's parsers: one JSON object a line in, one error or null a line out.

{"format": "text" | "openmetrics", "body": "..."}
"""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text

for line in sys.stdin:
    case = json.loads(line)
    parse = open_metrics if case["format"] == "openmetrics" else text
    error = None
    try:
        for _ in parse(case["body"]):
            pass
    except Exception as problem:  # Whatever it is, the body could not be read.
        error = f"{type(problem).__name__}: {problem}"
    print(json.dumps(error))
