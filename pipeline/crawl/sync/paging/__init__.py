"""When everything between two times was had, page by page.

`window` is the door; `pager` has the theory and the table of transitions.
"""
