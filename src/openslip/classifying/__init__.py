"""Pictures of any source to classes: `slip classify`, one step a file.

`classes` reads the names of the classes, `opening` finds the classifier, `labels` classifies pictures a batch at a
time, `tables` writes the answers, `summary` counts them, `sorting` copies pictures into folders of classes,
and `calibration` chooses a temperature and a threshold on pictures whose classes are known.
"""
