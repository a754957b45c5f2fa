"""A model's regions as annotations that people correct in labelme, CVAT and other tools, and import again."""
