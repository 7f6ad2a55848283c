"""The page: a model to try on this machine, two to compare blind, and reports to look at.

studio   models, what is asked of them, and the folder that keeps what they make; one clip at a time
asked    what a form holds -> what is to be made
looks    what is shown: clips, progress, history, as HTML
page     the form and the tabs, a file each, in Gradio, which nothing else here imports
serving  the page and the files of the named folders, over HTTP, and nothing else
"""
