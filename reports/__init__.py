"""From a recorded study to tables, figures and one HTML page; runs no trial."""
