"""Pictures of any source to classes: `slip classify`, one step a file.

`classes` reads what the classes are called, `opening` finds the classifier, `labels` classifies pictures a batch at a
time, `tables` writes what came out, `summary` counts it, `sorting` copies pictures into folders of classes,
and `calibration` chooses a temperature and a threshold on pictures whose classes are known.
"""
