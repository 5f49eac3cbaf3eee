from .task_heads import TaskHeads as TaskHeads
