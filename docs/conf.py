"Sphinx settings of the site; docs/build.py prepares the pages."

project = "MDR-GCN and Robust Decouple Loss"
author = copyright = "the mdr_repro authors"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # pages show the outputs that the notebooks hold
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["**.ipynb_checkpoints"]
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],
}
mathjax_path = "mathjax.js"  # a copy, so that the site needs no other server
