"""Values, cells and tables as text: terminal, Markdown, LaTeX and CSV."""
