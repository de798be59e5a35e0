"""What health says, and of whom."""

import json


def complains_of_others(body: str) -> bool:
    """Whether what is wrong is outside the processes, as a sink that is down: no fault of theirs, and true."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    if not isinstance(answer, dict):
        return False
    well = {stage["slot"] for stage in answer["stages"] if stage["state"] in ("ok", "failing")}
    missing = any("waiting for" in problem["why"] for problem in answer["problems"])
    return not missing and all(
        problem["stage"] in well or "-" not in problem["stage"] for problem in answer["problems"]
    )
