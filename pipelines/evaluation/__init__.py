"""How well concepts of a split that nothing has seen are personalised, by this method and its rivals."""
