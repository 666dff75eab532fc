"""Configuration of the site: `make docs` builds it into build/docs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent), str(HERE.parent / "tools")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The kernel that runs the notebooks imports the checkout too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])
)

from index_page import project_urls  # noqa: E402 - found by the path above

from tf_sphereface import __version__  # noqa: E402

project = "tf_sphereface"
author = "The tf_sphereface authors"
copyright = "The tf_sphereface authors, Apache License 2.0"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "markdown_docstrings",
    "file_links",
    "reference_pages",
]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["_ext", "reference/generated/rooms.rst"]

# Pages -------------------------------------------------------------------------------------------

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "notebooks")
nb_execution_in_temp = True  # what they write does not stay
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_output_stderr = "remove"  # what TensorFlow says of the machine; errors fail the build

# The reference -----------------------------------------------------------------------------------

autodoc_inherit_docstrings = False  # Keras' own texts are written for another tool
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature above them has the types
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

nitpicky = True
# The site is built without network, so types of other packages are text, not links.
nitpick_ignore_regex = [
    (r"py:.*", r"(abc|collections|os|pathlib|typing|types|datetime)\b.*"),  # Python
    (r"py:.*", r"(np|numpy|npt)\..*"),
    (r"py:.*", r"(keras|tensorflow|tf)\..*"),
    (r"py:.*", r"rich\..*"),
]

# The look ----------------------------------------------------------------------------------------

html_theme = "furo"
html_baseurl = project_urls(HERE.parent).get("Documentation", "")
html_title = f"tf_sphereface {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "_static" / "scorer.js")
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
