"""New pictures: scored by stored features or an exported model, and answered."""
