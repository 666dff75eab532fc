"""The paper's experiments, from faces to figures: what `tf_sphereface-reproduce` runs.

`arms` lists what is trained, `arm_training` trains and verifies one arm, `arm_runner` runs them all
(`workers`: several at a time) and keeps what is done; `small_networks` and `bounds` are the
geometric experiments; `statistics` compares, `figures` draws, `page` writes. Everything that is
measured is a JSON file first, and the page is made from these files alone.
"""
