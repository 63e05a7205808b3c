import jax, jax.numpy as jnp, flax.linen as nn
from physmodjax.dynamics.base import BaseModalDynamics
def matrix_init(key, shape, dtype=jnp.float32, normalization=1.0):
    return jax.random.normal(key, shape, dtype) / normalization
def nu_init(key, shape, r_min, r_max):
    u=jax.random.uniform(key,shape); return jnp.log(jnp.maximum(-0.5*jnp.log(u*(r_max**2-r_min**2)+r_min**2),1e-7))
def theta_init(key, shape, max_phase):
    return jnp.log(max_phase*jax.random.uniform(key,shape,minval=1e-4))
def gamma_log_init(key, lamb):
    nu,theta=lamb
    return 0.5*jnp.log(-jnp.expm1(-2*jnp.exp(nu)))
class LRUDynamics(BaseModalDynamics):
    r_min: float=0.; r_max: float=1.; max_phase: float=6.28; clip_eigs: bool=False
    def setup(self):
        self.nu_log=self.param("nu_log",nu_init,(self.d_hidden,),self.r_min,self.r_max)
        self.theta_log=self.param("theta_log",theta_init,(self.d_hidden,),self.max_phase)
    def get_eigenvalues(self):
        return jnp.exp(-jnp.exp(self.nu_log)+1j*jnp.exp(self.theta_log))
    def set_eigenvalues(self,lam): pass
