"""Where results go beside the answer: kept on disk until the other end has them."""
