"""The tasks that come with task-toolkit: recipes for real models, each with a sample that runs offline."""
