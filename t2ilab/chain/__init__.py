"""Several runs, each started from the export of the one before: `recipe=lifecycle`.

`command_line` sorts what the user typed, `steps` says what each run is and whether it is done, `lifeline` starts one
and ends with it, `job` goes through them, `report` shows what became of the same prompts.
"""
