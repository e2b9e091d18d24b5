"""Search for the best recipe: a space of recipes, samplers that propose, and a study that keeps what was tried. Knows no device."""
