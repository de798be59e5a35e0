"""One relay, kept in sync: what to ask it next, and what its answers complete. No I/O, no clock.

`relay_sync` is the door: the connection tells it what happened, and calls `advance` for what is to be asked. Times are
passed in: `mono` is monotonic seconds, `wall` Unix seconds.

| question | module |
|---|---|
| what is asked of every relay | `plan` (queries cut into chunks by `chunk_tree`), `relay_lists` |
| by query, or by one filter for everything | `strategy`, `firehose` |
| when | `schedule`, `sweep_times`, `resweeps`, `absences`, `backfill_jobs`, `gap_retries` |
| from when on | `timing`, `cursors` |
| what one pass over a span is, how it begins, and which are under way | `sweep`, `sweep_starter`, `sweeps`, `strands` |
| which page is asked for next | `page_opener` |
| when a page and a window are complete | `paging` |
| when a sweep and a cursor are complete | `page_answers` |
| by reconciliation rather than by pages | `reconciliation_policy`, `reconciler`, `item_sets` |
| which filters the relay answers with holes | `forms`, `form_lessons` |
| what it is subscribed to, and whether that brings what it should | `live` |
| what follows a refusal, a silence, a loss | `refused_sweeps`, `refusal_probes`, `size_trials`, `losses`, `quirks` |
| what cannot be had | `open_gaps`, `sweep_gaps`, `unfinished` |
| what its events may cost | `costs`, `pacing` |
"""
