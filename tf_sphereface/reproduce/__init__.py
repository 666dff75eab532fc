"""The paper's experiments, from faces to figures: what `tf_sphereface-reproduce` runs.

`arms` says what is trained, `training` trains and verifies one arm, `runner` goes through them and
keeps what is done; `toys` and `bounds` are the geometric experiments; `summary` compares,
`drawing_...` draw, `document` writes. Everything that is measured is a JSON file first, and the
page is made from these files alone.
"""
