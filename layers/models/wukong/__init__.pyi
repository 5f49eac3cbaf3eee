from .wukong import Wukong as Wukong
