"""A document of headings, paragraphs, tables and figures, as Markdown, HTML and LaTeX."""
