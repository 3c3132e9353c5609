"""Jobs that run in processes of their own: isolated ones, and programs."""
