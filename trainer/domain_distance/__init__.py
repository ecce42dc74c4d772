"""How far the images of a source and of a target lie apart, and how well a source's features fit a target's labels."""
