from .deployment import IMAGE as IMAGE
from .deployment import Options as Options
from .deployment import loaded_folders as loaded_folders
from .deployment import served as served
from .deployment import write_deployment as write_deployment
from .model_server import RestServer as RestServer
from .state_machine import Golden as Golden
from .state_machine import Rollout as Rollout
