"""The report of `vitjax analyze`: studies, figures, numbers and one self-contained HTML page."""

from vitjax.analysis.report.section import LeftOut, Picture, Section, Subject
from vitjax.analysis.report.write import STUDIES, choose, find_images, make_subject, write_report

__all__ = [
  'STUDIES',
  'LeftOut',
  'Picture',
  'Section',
  'Subject',
  'choose',
  'find_images',
  'make_subject',
  'write_report',
]
