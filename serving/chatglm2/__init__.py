"""Chat service: ChatGLM2-6B, or any causal language model that transformers ships, behind one HTTP contract."""
