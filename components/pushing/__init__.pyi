from .pusher import Pusher as Pusher
