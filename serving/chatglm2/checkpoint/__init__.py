"""Where the model's files come from: original ChatGLM2 checkpoints converted to native ones, or an embedded model."""
