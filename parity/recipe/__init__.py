"""Recipes as data: optimizer, schedule, augmentation, preprocessing, and the presets."""
