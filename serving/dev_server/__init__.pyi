from .server import DevelopmentServer as DevelopmentServer
from .server import running as running
