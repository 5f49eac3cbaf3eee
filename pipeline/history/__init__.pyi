from .day_tables import days_table as days_table
from .history_page import write_history as write_history
from .versions_served import Served as Served
from .versions_served import served_versions as served_versions
