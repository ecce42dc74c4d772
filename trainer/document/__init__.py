"""Documents of headings, paragraphs, tables and figures, written as Markdown, HTML and LaTeX."""
