"""d2lite: the part of Detectron2's API that LVT needs, on pip packages alone.

The package itself is empty on purpose. ``_site`` holds a package called ``detectron2``, which
``lvt_d2`` puts at the end of ``sys.path`` where no Detectron2 is installed.
"""
