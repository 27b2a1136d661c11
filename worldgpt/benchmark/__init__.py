"""What the model costs beside references that anyone can install, and beside what the machine can do at all."""
