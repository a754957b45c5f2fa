"""What all HTML reports share: the page, its style, and the switch between English and Chinese."""
