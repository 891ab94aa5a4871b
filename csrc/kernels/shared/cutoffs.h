// Numbers of the cutoff functions (docs/model.md), for the CPU and GPUs alike. Included inside the namespace of either.

enum class Cutoff : long long { cosine = 0, phys = 1, polynomial = 2, exponential = 3 };
