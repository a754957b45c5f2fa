"""Defect detection with DINOv3 features. Shares its package name with the official DINOv3 repository.

Put this project's folder before an official checkout on ``sys.path``; both are then found here.
"""

from pkgutil import extend_path

__version__ = "0.1.0"
__path__ = extend_path(__path__, __name__)
