"""How to train, as data: optimizer, schedule, augmentation, preprocessing, and the presets."""
