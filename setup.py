"""The compiled part of vitjax; everything else is in pyproject.toml."""

import pathlib

from setuptools import Extension, setup

setup(
  ext_modules=[
    # Optional: without a C compiler the same pixels come from simplejpeg, slower.
    Extension(
      'vitjax.data._jpeg_region',
      ['vitjax/data/native/jpeg_region.c'],
      depends=[str(path) for path in sorted(pathlib.Path('vitjax/data/native').glob('*.h'))],
      extra_compile_args=['-O3'],
      py_limited_api=True,
      optional=True,
    )
  ],
)
