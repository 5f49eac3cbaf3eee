from .pusher import Pusher as Pusher
from .pusher import push as push
