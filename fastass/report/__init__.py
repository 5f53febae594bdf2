"""The report of one or several runs: one self-contained page, no network.

run_record reads a run directory. compare, curves, classes, pictures and plane turn it into plain
numbers. page puts these into page.html, style.css and script.js.
"""
