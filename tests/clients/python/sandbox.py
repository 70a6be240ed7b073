"""What both Python clients need to know of the sandbox, and how a check is reported."""

import json
import os
import urllib.request

BASE = os.environ["SANDBOX"]
DIR = os.environ["SANDBOX_DIR"]
CLIENT_ID, CLIENT_SECRET = os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
WEBHOOK_ID = os.environ["WEBHOOK_ID"]


def control(path, body=None):
    """Pulls a string of the sandbox."""
    request = urllib.request.Request(
        f"{BASE}/_sandbox/{path}", json.dumps(body or {}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def check(what, holds):
    """One line for each thing that was shown; the first that does not hold ends the script."""
    if not holds:
        raise SystemExit(f"  FAILED  {what}")
    print(f"  ok      {what}")
