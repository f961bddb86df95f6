"""A page to play with: a photograph and words in; the masks and what they come from out.

It is served to this machine alone and fetches nothing from any other. What a person typed or
uploaded goes through `Segmenter` and `read_image` like anything else, and is shown as plain text.
Others on this machine can open it, too, and so can any web page try to: Gradio, which knows how to
read files and addresses that it is told of, gets only requests that have passed `Gate`.
"""
