"""Losses that teach a student the predictions or the features of a teacher."""
