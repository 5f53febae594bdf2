"""The report of one or several runs: one self-contained page, no network.

run_record reads a run directory · compare, curves, classes, pictures, plane make of it what a page
shows, as plain numbers · page puts them into page.html, style.css and script.js.
"""
