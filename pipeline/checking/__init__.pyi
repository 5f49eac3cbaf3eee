from .check_page import write_check_page as write_check_page
from .declarations import check_declarations as check_declarations
from .first_step import check_before_run as check_before_run
from .log_check import LogCheck as LogCheck
from .log_check import Remark as Remark
from .log_check import check_log as check_log
from .text_report import print_check as print_check
