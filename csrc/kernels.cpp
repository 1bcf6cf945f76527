// One instruction set's kernels: compiled once per set, everything in an anonymous namespace,
// one exported table, so that no other object can pick up code this machine may not run.
#include "decode.h"
#include "member.h"
#include "ops.h"
#include "roofline.h"

#define COMPFAST_JOIN_(a, b) a##b
#define COMPFAST_JOIN(a, b) COMPFAST_JOIN_(a, b)
#define COMPFAST_TEXT_(a) #a
#define COMPFAST_TEXT(a) COMPFAST_TEXT_(a)

extern "C" {
extern const compfast::KernelTable COMPFAST_JOIN(compfast_kernels_, COMPFAST_ISA);
const compfast::KernelTable COMPFAST_JOIN(compfast_kernels_, COMPFAST_ISA) = {
    COMPFAST_TEXT(COMPFAST_ISA),
    W,
    train_pack,
    train_half,
    train_update,
    batch_gradient,
    member_outputs,
    member_generate,
    &ops::TABLE,
    &loops::TABLE,
};
}
